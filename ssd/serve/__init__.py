"""A server for trained models: an HTTP interface and a page to look at. It needs `pip install "ssd_ops[serve]"`."""
