"""The parts of `pmap.testing`, which registers them with pytest before they are imported.

`samples` and `gate` are what workers import, and do without pytest.
"""
