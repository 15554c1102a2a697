from user_end import LABEL, USER_UIDS, CommandError, alive, bar, close_quota, end_pods, end_processes, expiry

__all__ = ["LABEL", "USER_UIDS", "CommandError", "alive", "bar", "close_quota", "end_pods", "end_processes", "expiry"]
