"""Parts of single nodes, named after them: what is too long for the node's own file."""
