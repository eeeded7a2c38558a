"""The engine under the attacks, and what their searches share."""
