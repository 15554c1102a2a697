from node_accounts import User, ensure_former, ensure_quotas, ensure_user

__all__ = ["User", "ensure_former", "ensure_quotas", "ensure_user"]
