"""One small module a source, named as the source; `registry` finds them, `base` says what a source is."""
