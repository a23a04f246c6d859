"""WKV-4: the operator, its references and its native bindings."""
