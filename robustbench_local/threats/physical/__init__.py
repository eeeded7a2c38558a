"""Objects before a camera: where they may be, what a camera makes of them, what can be printed."""
