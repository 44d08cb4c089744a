"""The functions of ``nki.language`` that work on tiles, made of instructions."""
