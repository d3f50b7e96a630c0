"""The front ends over real connections to a real server process."""
