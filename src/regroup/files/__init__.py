"""What is kept on disk, and how: caches, sealed directories, locks; read within limits, written whole."""
