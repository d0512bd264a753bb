"""Texts about a store or a file for people: HTML reports, previews, and safe counts."""
