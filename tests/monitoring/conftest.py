"""The scripts are data: run under a watch, never collected."""

collect_ignore_glob = ["scripts/*"]
