"""What is only there to be faster than plain PyTorch."""
