"""FsaNet, from image to mask."""
