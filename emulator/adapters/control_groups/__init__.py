"""How do processes of labs get control groups (version 2) with limits?"""
