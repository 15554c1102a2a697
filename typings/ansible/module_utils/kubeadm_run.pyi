from kubeadm_run import (
    RELEASE,
    again_where_it_fails,
    again_where_it_was_too_slow,
    answers,
    kubeadm,
    kubelet_journal,
    one_at_a_time,
    read_json,
    write_private,
)

__all__ = [
    "RELEASE",
    "again_where_it_fails",
    "again_where_it_was_too_slow",
    "answers",
    "kubeadm",
    "kubelet_journal",
    "one_at_a_time",
    "read_json",
    "write_private",
]
