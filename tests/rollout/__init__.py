"""The same forty tasks for pyinfra with our operations and for Ansible, for `make bench ONLY=rollout`."""
