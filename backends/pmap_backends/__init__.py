"""The backends that come with pmap; the core finds them by their entry points alone."""
