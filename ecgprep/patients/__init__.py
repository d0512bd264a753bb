"""Who is who: the manifest, the splits and their registry, duplicates, the confounding probe."""
