"""Starting, joining and watching the processes of a distributed run."""
