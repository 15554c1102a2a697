from user_quota import NoQuotasError, Quota, ensure_quota, kernel

__all__ = ["NoQuotasError", "Quota", "ensure_quota", "kernel"]
