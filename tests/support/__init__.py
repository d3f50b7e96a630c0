"""What several tests share: a real server process."""
