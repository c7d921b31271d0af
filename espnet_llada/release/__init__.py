"""The paper's published implementation as it is, and its checkpoint."""
