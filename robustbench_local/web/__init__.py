"""What the local web servers share: the listening socket, the server process, and the names it answers to."""
