"""Bridges to other libraries: the only place, beside networks, that imports them."""
