"""What an author of a backend writes to have it tested."""

import pmap.testing


class TestAcme(pmap.testing.BackendConformance):
    backend = "acme"
