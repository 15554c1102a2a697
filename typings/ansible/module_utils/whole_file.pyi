from whole_file import write_whole

__all__ = ["write_whole"]
