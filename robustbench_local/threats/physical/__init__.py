"""Objects in front of a camera: their allowed positions, the camera model, and printability."""
