"""spaCy on texts: tokens, parts of speech, lemmas, entities, dependencies, vectors. The only package that imports spaCy.

spaCy is optional (the extra `spacy`), so it is imported inside functions, after everything that can be checked without it.
"""
