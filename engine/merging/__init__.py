"""A trained adapter merged into its base model: a model of its own, which needs neither.

layers.py      the adapter on a base model without weights: which weights it changes, and into what
stream.py      weight by weight from file to file, in the memory of one file
whole.py       in memory, for models whose files hold other tensors than their layers do
folder.py      the finished folder: config, tokenizer, card, passport
card.py        the model card
passport.py    where the model is from, for programs
__main__.py    the program
"""
