"""WKV-7: the operator, its references and its native bindings."""
