"""The field's published protocols as experiments of one command each; every module here is one protocol."""
