"""FsaNet: the network, its presets, and its exports."""
