"""How fast ecgexp is beside what people use today: one command per question, see the README."""
