"""Whose is a path, a file or a process, and may this program rely on it?"""
