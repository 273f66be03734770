"""How fast ecgexp is, compared with what people use today: one command for each question, see the README."""
