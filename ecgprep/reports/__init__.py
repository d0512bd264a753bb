"""What people read about a store or a file: HTML reports, previews, counts that disclose nobody."""
