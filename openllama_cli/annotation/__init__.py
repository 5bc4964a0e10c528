"""spaCy on texts: tokens, parts of speech, lemmas, entities, dependencies, vectors. The only package that imports spaCy.

In come texts and the kinds of annotation wanted (`documents.KINDS`); out come pieces and documents in the shape of spaCy's
`Doc.to_json`, or SVG pictures. Begin with `pipeline` (find a pipeline by name or language, load it), then `annotate`.

spaCy is optional (the extra `spacy`), so it is imported inside functions, after everything that can be checked without it.
"""
