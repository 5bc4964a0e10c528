"""What is saved in a file instead of shown: pictures (SVG) and pages (HTML), as text. Begin with `surprisal_curve`."""
