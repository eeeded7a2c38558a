"""ONNX graphs evaluated by torch, node by node, so that their gradients exist."""
