"""Designs: which groups a run keeps."""
