from kubeadm_run import (
    FINISH_TRIES,
    RELEASE,
    again_where_it_fails,
    answers,
    kubeadm,
    kubelet_journal,
    one_at_a_time,
    read_json,
    write_private,
)

__all__ = [
    "FINISH_TRIES",
    "RELEASE",
    "again_where_it_fails",
    "answers",
    "kubeadm",
    "kubelet_journal",
    "one_at_a_time",
    "read_json",
    "write_private",
]
