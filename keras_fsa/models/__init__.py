"""FsaNet, from picture to mask."""
