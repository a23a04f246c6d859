"""WKV-5 and WKV-6: one operator, its references and its native bindings."""
