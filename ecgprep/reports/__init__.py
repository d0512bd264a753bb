"""What people read about a store or a file: HTML reports, previews, and counts that are safe."""
