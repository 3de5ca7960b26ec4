"""Why one passage has its score under the original and under the changed instruction."""
