"""What a training or a decoding will take."""
