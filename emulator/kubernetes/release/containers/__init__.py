"""What are container images made of here? Archives and containerd's store, written without a container tool."""
