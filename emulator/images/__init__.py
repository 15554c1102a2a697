"""What do guests boot from? Golden images: their recipes, how they are built, and the store that keeps them."""
