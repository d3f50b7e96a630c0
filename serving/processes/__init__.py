"""The supervisor and its workers: sockets, snapshots, life and death."""
