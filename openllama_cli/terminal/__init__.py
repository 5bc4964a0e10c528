"""The only package that imports rich: streams, tables, progress, escaping, error lines."""
