"""Text to token ids and back, as the model was trained: a tokenizer.model by the SentencePiece library, a tokenizer.json by
tokenizers. Those in GGUF files are made into one of these (`gguf`).

Begin with `open.open_tokenizer`, which makes a `base.Tokenizer` of a model's folder. `files` tells what is wrong with a file;
`compare` compares a tokenizer with transformers'.
"""
