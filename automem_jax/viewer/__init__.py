"""The trace viewer: a local web page, or one self-contained file, that plays recorded episodes."""
